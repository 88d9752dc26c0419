"""The denoising diffusion model itself: schedule, prior contract, plan, reverse loop."""
