"""Models on the Hugging Face Hub: references, downloads and errors."""
