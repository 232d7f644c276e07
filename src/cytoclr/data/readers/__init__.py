"""One module a layout of files: each turns it into a screen, into profiles, or into crops where these are ready."""
