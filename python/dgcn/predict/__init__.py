"""From pictures to persons."""
