"""The denoising diffusion model itself: schedule, prior contract, degradations, losses, plan and reverse loop."""
