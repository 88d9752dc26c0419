"""Models of the Hugging Face Hub: references, downloads, errors."""
