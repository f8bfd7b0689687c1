"""The apps of a deployment, and the scenarios that they run."""
