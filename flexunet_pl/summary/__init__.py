"""What a network is: its layers, its costs, what it sees, and its picture. Any network of plain torch will do."""
