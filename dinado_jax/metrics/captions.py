"""The metrics of captions that coco-caption has, and plain CIDEr."""

from dinado_jax.metrics.bleu import coco_bleu
from dinado_jax.metrics.cider import cider, cider_d
from dinado_jax.metrics.protocol import TextMetric
from dinado_jax.metrics.rouge import rouge_l

COCO_BLEU = tuple(
    TextMetric(f"coco_bleu_{n}", f"BLEU-{n} (coco-caption)", coco_bleu(n)) for n in range(1, 5)
)
ROUGE_L = TextMetric("rouge_l", "ROUGE-L (coco-caption)", rouge_l)
CIDER_D = TextMetric("cider_d", "CIDEr-D (coco-caption's CIDEr)", cider_d)
CIDER = TextMetric("cider", "CIDEr (neither clipped nor penalised)", cider)
