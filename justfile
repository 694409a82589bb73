# The commands that people type. Each is a script of the same name, which works without just; "just NAME --help" explains it.

# List the commands.
default:
    @just --list --unsorted

# Check everything, or only the tests whose names contain FILTER.
test *FILTER:
    scripts/test {{ FILTER }}

# Run the whole stack on this machine until Ctrl-C.
dev *OPTIONS:
    scripts/dev {{ OPTIONS }}

# Build the component in both its forms.
build *OPTIONS:
    scripts/build {{ OPTIONS }}

# Measure the function beside its peers.
bench *OPTIONS:
    scripts/bench {{ OPTIONS }}

# Run the whole stack while faults are injected, and check the books.
chaos *OPTIONS:
    scripts/chaos {{ OPTIONS }}

# Build and package a release.
release *OPTIONS:
    scripts/release {{ OPTIONS }}
