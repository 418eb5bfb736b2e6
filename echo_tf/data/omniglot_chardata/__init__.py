"""The 28x28 Omniglot of Burda et al. for TensorFlow Datasets."""

from echo_tf.data.omniglot_chardata.omniglot_chardata_dataset_builder import Builder

__all__ = ["Builder"]
