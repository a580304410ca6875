"""The search: which configuration comes next, which trial runs next, and which hyper-parameters matter."""
