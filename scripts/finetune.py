from hf_urbanseg.commands.finetune import main

if __name__ == "__main__":
    main()
