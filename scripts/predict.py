from hf_urbanseg.commands.predict import main

if __name__ == "__main__":
    main()
