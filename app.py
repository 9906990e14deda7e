"""Serves the browser demo."""

from mura_hf.demo import launch

if __name__ == "__main__":
    launch()
