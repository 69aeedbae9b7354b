"""From a run's folder to a repository on the Hub, and what happens when the Hub is away."""
