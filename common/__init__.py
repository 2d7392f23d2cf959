"""What every part of dimee shares; it never imports a tier."""
