from hf_urbanseg.commands.prepare_data import main

if __name__ == "__main__":
    main()
