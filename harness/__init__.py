"""The lab: builds kernels, boots them on boards, and judges what they do."""
