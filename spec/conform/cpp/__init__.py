"""The generated C++, read back and executed symbolically: does it say what the specification says?"""
