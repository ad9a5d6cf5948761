"""CogVideoX-5B and CogVideoX-5B-I2V: transformer, autoencoder, text encoder and published folder behind `models.spec`.
"""
