"""One module a layout of files: each turns it into a screen, or into crops where the crops are ready."""
