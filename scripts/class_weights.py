from hf_urbanseg.commands.class_weights import main

if __name__ == "__main__":
    main()
