"""From an extended-XYZ file to molecular dynamics with an equivariant interatomic potential."""
