"""Tables and pictures in one offline HTML file; `viewer/` is the drawing core of every picture."""
