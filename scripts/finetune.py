#!/usr/bin/env python
"""What `accelerate launch` starts: `urbanseg finetune` by another name."""

from hf_urbanseg.commands.finetune import main

if __name__ == "__main__":
    main()
