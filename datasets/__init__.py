"""The data set builders, imported as `reid_datasets`; the import registers them for `tfds.builder(NAME)`."""

from reid_datasets.cuhk03_np import cuhk03_np_dataset_builder
from reid_datasets.dukemtmc_reid import dukemtmc_reid_dataset_builder
from reid_datasets.market1501 import market1501_dataset_builder
from reid_datasets.msmt17 import msmt17_dataset_builder
from reid_datasets.occluded_duke import occluded_duke_dataset_builder
from reid_datasets.occluded_reid import occluded_reid_dataset_builder
from reid_datasets.p_dukemtmc_reid import p_dukemtmc_reid_dataset_builder
from reid_datasets.reid_folder import reid_folder_dataset_builder
from reid_datasets.synthped import synthped_dataset_builder

__all__ = [
    "cuhk03_np_dataset_builder",
    "dukemtmc_reid_dataset_builder",
    "market1501_dataset_builder",
    "msmt17_dataset_builder",
    "occluded_duke_dataset_builder",
    "occluded_reid_dataset_builder",
    "p_dukemtmc_reid_dataset_builder",
    "reid_folder_dataset_builder",
    "synthped_dataset_builder",
]
