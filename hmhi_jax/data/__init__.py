"""From disk to device batches: videos, optical flow, data sets, clips."""
