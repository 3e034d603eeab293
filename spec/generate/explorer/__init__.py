"""The explorer's model of the specification in C++."""
