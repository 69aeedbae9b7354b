from hf_urbanseg.commands.evaluate import main

if __name__ == "__main__":
    main()
