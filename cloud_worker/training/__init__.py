"""Fine-tune a backbone with exit heads, calibrate it, and export it as a bundle; the only code that imports torch."""
