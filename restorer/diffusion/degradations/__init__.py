"""What happened to an image, as linear operators with noise: hidden pixels, shrinking, coloured noise, compression."""
