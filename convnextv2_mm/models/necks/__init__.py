"""Decoders of FCMAE."""
