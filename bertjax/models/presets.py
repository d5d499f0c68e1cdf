"""Published sizes as data (BERT, 1810.04805, and Turc et al., 1908.08962)."""

from bertjax.layers.config import EncoderConfig

PRESETS: dict[str, EncoderConfig] = {
    "tiny": EncoderConfig(layers=2, width=128, heads=2),
    "mini": EncoderConfig(layers=4, width=256, heads=4),
    "small": EncoderConfig(layers=4, width=512, heads=8),
    "medium": EncoderConfig(layers=8, width=512, heads=8),
    "base": EncoderConfig(layers=12, width=768, heads=12),
    "large": EncoderConfig(layers=24, width=1024, heads=16),
}
