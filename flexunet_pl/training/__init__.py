"""The task that Lightning trains, and the callbacks that write what happens."""
