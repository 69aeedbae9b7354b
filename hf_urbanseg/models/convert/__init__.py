"""NVlabs' and MMSegmentation's SegFormer files to Hub folders and back, each tensor by name and shape."""
