"""Readers of file formats, by the suffix of a file; further ones are added with `register_reader`."""

from ssl_pretext.data.readers.axes import Hdf5Reader, NpyReader, ZarrReader
from ssl_pretext.data.readers.base import Array, ImageFile, LoadedFile, Reader
from ssl_pretext.data.readers.dicom import DicomReader
from ssl_pretext.data.readers.nifti import NiftiReader
from ssl_pretext.data.readers.raster import JpegTwoThousandReader
from ssl_pretext.data.readers.registry import register_reader
from ssl_pretext.data.readers.tiff import OmeTiffReader, TiffReader

__all__ = [
    "Array",
    "DicomReader",
    "Hdf5Reader",
    "ImageFile",
    "JpegTwoThousandReader",
    "LoadedFile",
    "NiftiReader",
    "NpyReader",
    "OmeTiffReader",
    "Reader",
    "TiffReader",
    "ZarrReader",
    "register_reader",
]
