// Plates as they stand: a number of each well, in its place.

function startPlates() {}
