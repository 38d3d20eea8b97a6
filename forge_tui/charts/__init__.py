"""Charts drawn by ourselves: buffers and rasteriser in NumPy alone, and the widget that shows them."""
