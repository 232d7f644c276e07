"""From plates to crops: metadata tables, readers, the virtual screen, images, locations, crops."""
