"`python -m galaxy_cnn` is `galaxy-cnn`; torchrun starts it so in every process"
from .cli import main

if __name__ == "__main__": main()
