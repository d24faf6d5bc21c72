"""Show: what people and programs see of the operations. Each folder is one frontend; they do not know each other."""
