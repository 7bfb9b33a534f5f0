"""Backbones and the sparse encoder of FCMAE."""
