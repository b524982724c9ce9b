"""The readers that are tried: each class is a set of files, how they are changed, and the commands that read them."""

from hostile.data_readers import DATA_READERS
from hostile.model_readers import MODEL_READERS

READERS = (*MODEL_READERS, *DATA_READERS)
BY_NAME = {reader.name: reader for reader in READERS}
