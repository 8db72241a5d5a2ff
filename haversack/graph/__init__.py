"""What a network is made of: operations, shapes, costs, channel groups, ranges."""
