"""TensorRT's classes for annotations elsewhere. Import them under ``TYPE_CHECKING``: they do not exist at run time."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorrt import Dims as Dims
    from tensorrt import ICudaEngine as ICudaEngine
    from tensorrt import IExecutionContext as IExecutionContext
    from tensorrt import IHostMemory as IHostMemory
