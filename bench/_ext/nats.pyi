# Codecs have nothing for Python: the driver calls them.
