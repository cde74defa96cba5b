"""Fine-tuning on few labeled photos, from pretrained and from random weights."""
