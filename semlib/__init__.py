"""Detecting semantic anomalies (Ahmed & Courville, AAAI 2020): the hold-out-class benchmark, as a
package.
"""
