"""Which images there are, known by their content: folders, lists, URLs, planes of stacks."""
