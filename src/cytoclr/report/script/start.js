// Draws all; and what has the page's colours again where the reader changes between light and dark.

startCells();
startMap();
startPlates();
startTreatments();
startGalleries();
startTraining();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => coloured.forEach((draw) => draw()));
