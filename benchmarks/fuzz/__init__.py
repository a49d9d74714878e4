"""Random calls of the library. An oracle judges each answer and each error."""
